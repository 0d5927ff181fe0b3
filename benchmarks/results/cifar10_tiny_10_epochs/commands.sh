#!/bin/sh
# 12 minutes 40 s of pretraining on 2 CPU cores, the first minutes beside other work. CIFAR-10 as an archive: README, npz:.
set -e
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
python train.py --config=configs/cifar10.py --workdir=cifar_run --config.data.source=npz:cifar10.npz \
  --config.model.encoder=resnet_tiny --config.model.dtype=float32 --config.train.batch_size=256 \
  --config.train.epochs=10 --config.optimizer.warmup_epochs=1
python eval_linear.py --workdir=cifar_run
for command in knn lbfgs pictures; do python -m simclr_jax $command --workdir=cifar_run; done
