"""Every key, with its unit, at the values of the paper's ImageNet recipe. Other configs change what differs.

Any key can be changed on the command line: ``--config.train.epochs=200``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns every key."""
    config = ConfigDict()
    config.seed = 0  # decides initial parameters, hold-outs, the order of images and every view

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"  # textures, npz:PATH, folder:PATH or tfds:NAME
    config.data.dir = ""  # where TFDS keeps its prepared data sets; "" = its default, ~/tensorflow_datasets
    config.data.labels = ""  # of folder:PATH: "" = class folders where they are clear; folders, none or csv:FILE
    config.data.train_split = "train"  # the split that is trained on
    config.data.validation_split = ""  # "" = the split named validation, else a hold-out of the training split
    config.data.test_split = ""  # "" = the split named test, else a hold-out of the training split
    config.data.holdout_fraction = 0.1  # of the training split, for each hold-out; 0 = none, and no validation
    config.data.limit = 0  # use only n training images, a seeded sample; 0 = all
    # What hold-outs, samples and ids go by: the name of an image's file or, in memory, its pixels, so that a set may
    # grow and nothing that was trained on is held out; or position, its place among the others, as in older runs.
    config.data.identity = "name"
    config.data.bits = 0  # of 16-bit files, 2 ** bits - 1 is white: 8 to 16; 0 = found in a sample, once for the run
    config.data.images = 0  # of --plan alone: images of a training split that is not here; 0 = the source tells
    config.data.cache = "host"  # or device: it holds the training images, if they are of one size and fit
    config.data.max_corrupt_fraction = 0.01  # of a split's images; the run stops when more cannot be read

    config.augment = ConfigDict()
    config.augment.placement = "host"  # where views are made, or device: all but reading and cropping files is there
    config.augment.image_size = 224  # pixels; side of a view
    config.augment.min_area = 0.08  # of the image, that a random crop covers
    config.augment.max_area = 1.0
    config.augment.min_aspect = 3 / 4  # width / height of a random crop
    config.augment.max_aspect = 4 / 3
    config.augment.flip_probability = 0.5
    config.augment.jitter_probability = 0.8
    config.augment.jitter_strength = 1.0  # multiplies the next four; the paper's s
    config.augment.brightness = 0.8  # factor drawn from 1 ± this, not below 0
    config.augment.contrast = 0.8  # likewise
    config.augment.saturation = 0.8  # likewise
    config.augment.hue = 0.2  # shift drawn from ± this; 1 is the whole circle
    config.augment.grayscale_probability = 0.2
    config.augment.blur_probability = 0.5
    config.augment.min_sigma = 0.1  # pixels; of the blur
    config.augment.max_sigma = 2.0

    config.model = ConfigDict()
    config.model.encoder = "resnet50"  # resnet18, 34, 50, 101, 152, 200 or resnet_tiny
    config.model.width = 1  # multiplies the channels
    config.model.cifar_stem = False  # 3×3 stem without max-pool, for images up to 32 pixels
    config.model.sk_ratio = 0.0  # above 0: selective kernels and the ResNet-D that goes with them; v2 has 0.0625
    config.model.se_ratio = 0.0  # above 0: squeeze and excitation
    config.model.pool = "same"  # padding of the stem's max-pool, as Google's code; or symmetric, as PyTorch's networks
    config.model.normalize = "none"  # or imagenet, cifar10: their mean colour and deviation, as weights of others want
    config.model.norm = "batch"  # or group: of each image alone, so that any micro-batch gives the one-pass step
    config.model.dtype = "float32"  # of the computation, or bfloat16; parameters and loss stay float32
    config.model.global_batch_norm = True  # BatchNorm statistics over all devices
    config.model.remat = False  # compute residual blocks twice: the same result, less memory, a third more time

    config.head = ConfigDict()
    config.head.kind = "nonlinear"  # nonlinear, linear or none
    config.head.layers = 2  # of a nonlinear head
    config.head.dim = 128  # of the projection z

    config.loss = ConfigDict()
    config.loss.temperature = 0.1  # divides similarities; small ones make the nearest negatives count most
    config.loss.chunk_size = 0  # anchors whose similarities are held at once; 0 = all of a small batch, else a stripe
    config.loss.gather = "all"  # every device holds the vectors of all, or ring: they are passed round

    config.optimizer = ConfigDict()
    config.optimizer.name = "lars"  # lars, sgd (Nesterov momentum 0.9) or adamw
    config.optimizer.learning_rate = 0.3  # at the base of the scaling
    config.optimizer.scaling = "linear"  # linear: × batch / 256; sqrt: × √batch; none
    config.optimizer.weight_decay = 1e-6  # of kernels alone: not of BatchNorm and biases
    config.optimizer.warmup_epochs = 10.0  # from 0, linearly; then a cosine to 0

    config.train = ConfigDict()
    config.train.batch_size = 4096  # images per step over all devices; two views of each
    config.train.epochs = 100  # a finished run may be given more; the cosine of its learning rate then ends later
    # A RUN, or RUN/checkpoints/STEP, whose weights a new run begins with; optimiser, schedule and steps begin at 0. Its
    # network must be the same. A run that goes on from its own checkpoints does not read it again.
    config.train.start_from = ""
    config.train.on_nonfinite = "stop"  # where the loss or its gradient is not finite; or skip: drop the update
    config.train.max_skipped = 10  # updates dropped in a row; one more stops the run
    # Images that pass the network at once, over all devices, for memory; 0 = the whole batch. The loss still compares
    # all images of the batch. BatchNorm's statistics are then those of a micro-batch, which changes the mathematics.
    config.train.microbatch_size = 0

    config.online_probe = ConfigDict()
    config.online_probe.learning_rate = 1e-3  # Adam's; 0 = no online probe. It watches h and changes nothing.

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # 0 = only the last
    config.checkpoint.every_steps = 0  # instead of every_epochs, if above 0
    config.checkpoint.keep = 3  # newest checkpoints that are kept

    config.log = ConfigDict()
    config.log.every_steps = 50  # between two rows of metrics.jsonl
    return config
