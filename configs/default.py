"""Every config key, with its unit and its default: the paper's ImageNet recipe. Other configs start from this one.

Any key can be changed on the command line: ``--config.train.epochs=200``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns every key."""
    config = ConfigDict()
    config.seed = 0  # determines the initial parameters, the held-out images, the order of images and all views

    config.data = ConfigDict()
    # where the images are: textures (built in), npz:PATH, folder:PATH or tfds:NAME
    config.data.source = "tfds:imagenet2012"
    config.data.dir = ""  # folder of the prepared TFDS data sets; "" = TFDS's default, ~/tensorflow_datasets
    # labels of folder:PATH: "" = from class folders if these are clear, or folders, none, csv:FILE
    config.data.labels = ""
    config.data.train_split = "train"  # name of the source's split to train on
    # "" = the split named validation or, without one, images held out of the training split
    config.data.validation_split = ""
    config.data.test_split = ""  # "" = the split named test or, without one, images held out of the training split
    # share of the training split that is held out, for validation and for test; 0 = nothing
    config.data.holdout_fraction = 0.1
    config.data.limit = 0  # use only this many training images, chosen at random from the seed; 0 = all
    # How images are chosen for hold-outs and samples. name: by file name or, for arrays, by pixels, so that images may
    # be added later without moving others between train and test. position: by place in the data set, as in old runs.
    config.data.identity = "name"
    # channels of an image, 1 to 32: 3 = red, green, blue; 1 = grey, which colour images are converted to; other numbers
    # are those of the files: arrays of npz:, TIFF in folder: (pip install 'simclr_jax[tiff]')
    config.data.channels = 3
    # channels that pictures show as red, green and blue, or one of them as grey, counted from 0; () = the first three
    config.data.show_bands = ()
    # bit depth of 16-bit images: 2 ** bits - 1 is white; 8 to 16, or 0 = detect it from a sample
    config.data.bits = 0
    # only for --plan: the number of training images, if they are not on this machine; 0 = count them
    config.data.images = 0
    config.data.cache = "host"  # or device: keep all training images in device memory, if they have one size and fit
    config.data.max_corrupt_fraction = 0.01  # share of a split's images; the run stops if more than this cannot be read

    config.augment = ConfigDict()
    # where views (augmented images) are made: host or device
    config.augment.placement = "host"
    config.augment.image_size = 224  # height and width of a view, pixels
    config.augment.min_area = 0.08  # smallest random crop, as a share of the image's area
    config.augment.max_area = 1.0  # largest random crop, as a share of the image's area
    config.augment.min_aspect = 3 / 4  # smallest width / height of a random crop
    config.augment.max_aspect = 4 / 3  # largest width / height of a random crop
    config.augment.flip_probability = 0.5  # probability of a left-right flip
    # probability of colour jitter: random brightness, contrast, saturation and hue
    config.augment.jitter_probability = 0.8
    config.augment.jitter_strength = 1.0  # multiplies brightness, contrast, saturation and hue; s in the paper
    config.augment.brightness = 0.8  # random factor from 1 - this to 1 + this, not below 0
    config.augment.contrast = 0.8  # random factor from 1 - this to 1 + this, not below 0
    config.augment.saturation = 0.8  # random factor from 1 - this to 1 + this, not below 0
    config.augment.hue = 0.2  # random shift from -this to +this; 1 is the whole colour circle
    config.augment.grayscale_probability = 0.2  # probability of removing all colour
    config.augment.blur_probability = 0.5  # probability of Gaussian blur
    config.augment.min_sigma = 0.1  # smallest standard deviation of the blur, pixels
    config.augment.max_sigma = 2.0  # largest standard deviation of the blur, pixels
    # probability of solarizing, after the blur: x becomes 1 - x where it is at least 0.5, half of white; BYOL uses 0.2
    # for one of the two views
    config.augment.solarize_probability = 0.0
    config.augment.noise_probability = 0.0  # probability of adding Gaussian noise, to each pixel and channel by itself
    config.augment.noise_deviation = 0.1  # standard deviation of the noise, as a share of white
    # name of a function of your own, the last that happens to a view: one of simclr_jax.register_view_function
    config.augment.own = ""

    config.model = ConfigDict()
    # resnet18, resnet34, resnet50, resnet101, resnet152, resnet200 or resnet_tiny; vit_tiny, vit_small, vit_base or
    # vit_large; convnext_atto, _femto, _pico, _nano, _tiny, _small, _base, _large or _xlarge; or one of
    # simclr_jax.register_encoder
    config.model.encoder = "resnet50"
    config.model.width = 1  # of a ResNet: multiplies the number of channels of all layers
    # of a ResNet: True = first layer 3×3 without max-pool, for images of up to 32 pixels
    config.model.cifar_stem = False
    # of a ResNet: above 0 = selective kernels with the ResNet-D stem; SimCLR v2 uses 0.0625
    config.model.sk_ratio = 0.0
    config.model.se_ratio = 0.0  # of a ResNet: above 0 = squeeze and excitation
    # of a ResNet: padding of the first max-pool: same, as in Google's code, or symmetric, as in PyTorch
    config.model.pool = "same"
    # of a ViT or ConvNeXt: side of the patches that its first layer reads, pixels; 0 = 16 of a ViT, 4 of a ConvNeXt
    config.model.patch_size = 0
    config.model.positions = "learned"  # of a ViT: learned, or sincos: fixed sines and cosines, as in MoCo v3
    config.model.global_pool = "mean"  # of a ViT: representation h is the mean of all patches, or the class token
    # of a ViT: True = its first layer is not trained but stays random, which makes training stable (MoCo v3)
    config.model.freeze_patch_projection = False
    # Number of the encoder's first parts that stay as they were; 0 = none. Parts are the stem and stages of a ResNet or
    # ConvNeXt, the embedding of patches and the blocks of a ViT. BatchNorm there uses its running statistics.
    config.model.freeze = 0
    # Start a new run from weights: RUN, RUN/checkpoints/STEP, or FILE.safetensors of timm, torchvision or export torch;
    # "" = random weights. The encoder must be the same, the head may be another. The optimiser, the schedule and the
    # step count start at 0. Ignored when a run resumes from its own checkpoints.
    config.model.init_from = ""
    # or imagenet, cifar10: subtract mean and divide by standard deviation, for imported weights; or data: by those of
    # each channel of the training images, found in 1,024 of them and kept in the run's config.json
    config.model.normalize = "none"
    config.model.mean = ()  # of normalize=data: the mean of each channel, 1 is white; () = find it
    config.model.deviation = ()  # of normalize=data: the standard deviation of each channel, with mean; () = find it
    # of a ResNet and the head: batch, or group: normalises each image by itself, so micro-batches do not change the
    # result; ViT and ConvNeXt use LayerNorm
    config.model.norm = "batch"
    config.model.dtype = "float32"  # of the computation: float32 or bfloat16; parameters and loss always use float32
    config.model.global_batch_norm = True  # True = BatchNorm statistics over the images of all devices
    # True = the two views pass one after another, each with BatchNorm statistics of its own, as in most PyTorch code
    config.model.view_batch_norm = False
    config.model.remat = False  # True = recompute activations: the same result with less memory and a third more time

    config.head = ConfigDict()
    config.head.kind = "nonlinear"  # projection head, from representation h to projection z: nonlinear, linear or none
    config.head.layers = 2  # number of layers of a nonlinear head
    config.head.dim = 128  # dimension of the projection z
    config.head.hidden_dim = 0  # width of the middle layers of a nonlinear head; 0 = that of representation h
    config.head.norm = True  # whether the head's layers end in BatchNorm (see model.norm); without, they have biases

    config.loss = ConfigDict()
    # nt_xent; dcl: no positive in the denominator; supcon: images of the same label are positives; or a registered one
    config.loss.name = "nt_xent"
    config.loss.temperature = 0.1  # of the softmax over similarities; 0.1 to 0.5 is usual
    # rows of the similarity matrix in memory at once; 0 = automatic. Changes memory, not the result
    config.loss.chunk_size = 0
    # all: each device holds the projections of all devices; ring: they are passed around, using less memory
    config.loss.gather = "all"

    config.optimizer = ConfigDict()
    config.optimizer.name = "lars"  # lars, sgd, adamw, or one of simclr_jax.register_optimizer
    config.optimizer.learning_rate = 0.3  # before scaling, see optimizer.scaling
    config.optimizer.scaling = "linear"  # of the learning rate: linear = × batch / 256, sqrt = × √batch, or none
    config.optimizer.momentum = 0.9  # of lars and sgd
    # whether the momentum of lars and sgd is Nesterov's: yes or no; "" = yes for sgd, no for lars
    config.optimizer.nesterov = ""
    config.optimizer.betas = (0.9, 0.999)  # decays of the two moments of adamw
    config.optimizer.weight_decay = 1e-6  # see optimizer.exclude
    # Parameters without weight decay and without the adaptation of lars: all_but_kernels (BatchNorm and biases), none,
    # or parts of paths like encoder/stage1_block1/norm1/scale, separated by commas: bias,norm.
    config.optimizer.exclude = "all_but_kernels"
    # The encoder's last part (see model.freeze) learns by this times the learning rate, the one before it by this
    # squared, and so on; 1 = off, 0.65 to 0.9 is usual when a run starts from weights.
    config.optimizer.layer_decay = 1.0
    config.optimizer.warmup_epochs = 10.0  # linear increase from 0; then the learning rate follows a cosine to 0

    config.train = ConfigDict()
    config.train.batch_size = 4096  # images per step over all devices; each gives two views
    config.train.epochs = 100  # a finished run can be extended by more epochs
    # if the loss or its gradient is not finite (NaN or infinite): stop, or skip the update
    config.train.on_nonfinite = "stop"
    config.train.max_skipped = 10  # most updates skipped in a row; one more stops the run
    # Images that go through the network at once, over all devices, to save memory; 0 = the whole batch. The loss still
    # compares all images of the batch, but BatchNorm uses the statistics of each micro-batch, which changes results.
    config.train.microbatch_size = 0

    config.online_probe = ConfigDict()
    # learning rate of a linear probe on h, trained alongside if there are labels; does not affect the encoder; 0 = off
    config.online_probe.learning_rate = 1e-3

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # epochs between checkpoints; 0 = only at the end
    config.checkpoint.every_steps = 0  # steps between checkpoints; above 0 replaces every_epochs
    config.checkpoint.keep = 3  # how many of the newest checkpoints to keep

    config.log = ConfigDict()
    config.log.every_steps = 50  # steps between two rows of metrics.jsonl
    # Where else the rows go: tensorboard, wandb, mlflow, several separated by commas; "" = nowhere else. W&B and MLflow
    # need 'simclr_jax[wandb]' and 'simclr_jax[mlflow]'; WANDB_PROJECT and MLFLOW_TRACKING_URI say where they write.
    config.log.to = "tensorboard"
    return config
