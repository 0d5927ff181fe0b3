"""Models: images to representations h and projections z."""

from simclr_jax.models.architectures import ENCODERS
from simclr_jax.models.classifier import Classifier, create_classifier
from simclr_jax.models.encoders import (
    Encoder,
    check_encoder,
    create_encoder,
    encoder_of,
    feature_dim,
    register_encoder,
)
from simclr_jax.models.heads import ProjectionHead
from simclr_jax.models.network import NORMALIZATIONS, Head, Network
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.simclr import SimCLR, create_model

__all__ = [
    "ENCODERS",
    "NORMALIZATIONS",
    "Classifier",
    "Encoder",
    "Head",
    "Network",
    "ProjectionHead",
    "ResNet",
    "SimCLR",
    "check_encoder",
    "create_classifier",
    "create_encoder",
    "create_model",
    "encoder_of",
    "feature_dim",
    "register_encoder",
]
