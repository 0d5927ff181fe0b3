"""Google's SimCLR network in TensorFlow: the oracle of what is read from its checkpoints, and their writer.

The forward pass makes each variable where it is used first, under the names of both versions of Google's code, so that
TensorFlow 1 counts convolutions and BatchNorms as its graph would.
"""

import re

import numpy as np
import tensorflow as tf


class TfSimCLR:
    """The network; after a call `tf1` and `tf2` hold its variables by name, `outputs` what every block gave."""

    def __init__(self, stage_sizes, bottleneck, base, *, cifar=False, sk=0.0, se=0.0, head=(), classes=0, seed=0):
        self.stage_sizes, self.bottleneck, self.base = stage_sizes, bottleneck, base
        self.cifar, self.sk, self.se, self.head, self.classes = cifar, sk, se, head, classes
        self.rng = np.random.default_rng(seed)
        self.tf1, self.tf2, self.outputs = {}, {}, {}
        self.counts = {"conv2d": 0, "batch_normalization": 0}

    def __call__(self, images):
        x = self.stem(tf.constant(images))
        for stage, blocks in enumerate(self.stage_sizes):
            for index in range(blocks):
                path = f"resnet_model/block_groups/{stage}/layers/{index}"
                stride = 2 if stage and not index else 1
                x = self.block(x, path, self.base * 2**stage, stride, index == 0)
                self.outputs[f"stage{stage + 1}_block{index + 1}"] = x.numpy()
        h = z = tf.reduce_mean(x, [1, 2])
        self.outputs["layers"] = [h.numpy()]
        for index, features in enumerate(self.head):
            z = self.head_layer(z, index, features, last=index == len(self.head) - 1)
            self.outputs["layers"].append(z.numpy())
        if self.classes:
            names = "head_supervised/linear_layer/dense", "supervised_head/linear_layer/dense"
            kernel = self.variable(*names, "kernel", (h.shape[-1], self.classes), 0.0, 0.1)
            self.outputs["logits"] = (h @ kernel + self.variable(*names, "bias", (self.classes,), 0.0, 0.1)).numpy()
        return self.outputs

    def variable(self, name, path, leaf, shape, mean, deviation):
        array = (mean + deviation * self.rng.uniform(-1, 1, shape)).astype(np.float32)
        self.tf1[f"{name}/{leaf}"] = self.tf2[f"{path}/{leaf}"] = array
        return tf.constant(array)

    def name(self, kind):
        count = self.counts[kind]
        self.counts[kind] += 1
        return f"base_model/{kind}_{count}" if count else f"base_model/{kind}"

    def conv(self, x, path, filters, side, stride=1, bias=False):
        name, inputs = self.name("conv2d"), x.shape[-1]
        shape = (side, side, inputs, filters)
        kernel = self.variable(name, path, "kernel", shape, 0.0, (3 / (side * side * inputs)) ** 0.5)
        if stride > 1:
            begin = (side - 1) // 2
            x = tf.pad(x, [[0, 0], [begin, side - 1 - begin], [begin, side - 1 - begin], [0, 0]])
        x = tf.nn.conv2d(x, kernel, stride, "SAME" if stride == 1 else "VALID")
        return x + self.variable(name, path, "bias", (filters,), 0.0, 0.3) if bias else x

    def norm(self, x, path, *, name=None, center=True):
        name, shape = name or self.name("batch_normalization"), (x.shape[-1],)
        gamma = self.variable(name, path, "gamma", shape, 1.0, 0.2)
        beta = self.variable(name, path, "beta", shape, 0.0, 0.2) if center else None
        mean = self.variable(name, path, "moving_mean", shape, 0.0, 0.2)
        variance = self.variable(name, path, "moving_variance", shape, 0.6, 0.4)
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)

    def stem(self, x):
        path = "resnet_model/initial_conv_relu_max_pool"
        plain = [(0, 2, self.base, 3, 1)] if self.cifar else [(0, 2, self.base, 7, 2)]
        deep = [(0, 1, self.base // 2, 3, 2), (2, 3, self.base // 2, 3, 1), (4, 6, self.base, 3, 1)]
        for conv, norm, filters, side, stride in deep if self.sk and not self.cifar else plain:
            x = self.conv(x, f"{path}/{conv}/conv2d", filters, side, stride)
            x = tf.nn.relu(self.norm(x, f"{path}/{norm}/bn"))
        return x if self.cifar else tf.nn.max_pool2d(x, 3, 2, "SAME")

    def block(self, x, path, filters, stride, first):
        width = filters * (4 if self.bottleneck else 1)
        shortcut = self.shortcut(x, path, width, stride) if first else x
        if self.bottleneck:
            path = f"{path}/conv_relu_dropblock_layers"
            x = self.conv_norm_relu(x, path, 0, filters, 1)
            if self.sk:
                x, at = self.selective_kernel(x, f"{path}/3", filters, stride), 5
            else:
                x, at = self.conv_norm_relu(x, path, 3, filters, 3, stride), 6
            x = self.norm(self.conv(x, f"{path}/{at}/conv2d", width, 1), f"{path}/{at + 1}/bn")
            excitation = f"{path}/{at + 3}"
        else:
            layers, excitation = f"{path}/conv2d_bn_layers", f"{path}/se_layer"
            x = self.conv_norm_relu(x, layers, 0, filters, 3, stride)
            x = self.norm(self.conv(x, f"{layers}/2/conv2d", filters, 3), f"{layers}/3/bn")
        if self.se:
            y = tf.reduce_mean(x, [1, 2], keepdims=True)
            y = tf.nn.relu(self.conv(y, f"{excitation}/se_reduce", max(1, int(filters * self.se)), 1, bias=True))
            x = tf.sigmoid(self.conv(y, f"{excitation}/se_expand", width, 1, bias=True)) * x
        return tf.nn.relu(x + shortcut)

    def conv_norm_relu(self, x, path, at, filters, side, stride=1):
        return tf.nn.relu(self.norm(self.conv(x, f"{path}/{at}/conv2d", filters, side, stride), f"{path}/{at + 1}/bn"))

    def shortcut(self, x, path, filters, stride):
        path, at = f"{path}/{'projection_layers' if self.bottleneck else 'shortcut_layers'}", 0
        if self.sk:
            if stride > 1:
                x, at = tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]), 1
            x = tf.nn.avg_pool2d(x, 2, stride, "SAME" if stride == 1 else "VALID")
            at, stride = at + 1, 1
        return self.norm(self.conv(x, f"{path}/{at}/conv2d", filters, 1, stride), f"{path}/{at + 1}/bn")

    def selective_kernel(self, x, path, filters, stride):
        x = self.conv(x, f"{path}/conv2d_fixed_padding/conv2d", 2 * filters, 3, stride)
        x = tf.stack(tf.split(tf.nn.relu(self.norm(x, f"{path}/batch_norm_relu/bn")), 2, axis=3))
        y = tf.reduce_mean(tf.reduce_sum(x, 0), [1, 2], keepdims=True)
        y = self.conv(y, f"{path}/conv2d_0", max(int(filters * self.sk), 32), 1)
        y = self.conv(tf.nn.relu(self.norm(y, f"{path}/batch_norm_relu_1/bn")), f"{path}/conv2d_1", 2 * filters, 1)
        return tf.reduce_sum(x * tf.nn.softmax(tf.stack(tf.split(y, 2, axis=3)), axis=0), 0)

    def head_layer(self, x, index, features, last):
        name = "head_contrastive/" + ("l_0" if len(self.head) == 1 else f"nl_{index}")
        path = f"_projection_head/linear_layers/{index}"
        shape = (x.shape[-1], features)
        kernel = self.variable(f"{name}/dense", f"{path}/dense", "kernel", shape, 0.0, (3 / shape[0]) ** 0.5)
        x = self.norm(x @ kernel, f"{path}/bn_relu/bn", name=f"{name}/batch_normalization", center=not last)
        return x if last else tf.nn.relu(x)


def write_tf1(arrays, prefix):
    """A checkpoint as TensorFlow 1's Saver makes it, of {name: array}."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.Variable(array, name=re.sub(r"\W", "_", name)) for name, array in arrays.items()}
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(prefix), write_meta_graph=False)
    return prefix


def objects(arrays):
    """The tree of objects whose attributes lead to the variables, as a Keras model's do, of {path: array}."""
    root = {}
    for path, array in arrays.items():
        *folders, leaf = path.split("/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = tf.Variable(array, trainable=not leaf.startswith("moving_"))

    def made(node):
        if not isinstance(node, dict):
            return node
        if all(name.isdecimal() for name in node):  # layers without variables take a place of the list too
            return [made(node[str(i)]) if str(i) in node else tf.Module() for i in range(1 + max(map(int, node)))]
        module = tf.Module()
        for name, child in node.items():
            setattr(module, name, made(child))
        return module

    return made(root)


def write_tf2(arrays, folder, step=7):
    """A checkpoint as TensorFlow 2's CheckpointManager makes it."""
    step = tf.Variable(step, dtype=tf.int64)
    optimizer = tf.Module()
    optimizer.iter, optimizer.learning_rate = step, tf.Variable(0.1)
    checkpoint = tf.train.Checkpoint(model=objects(arrays), global_step=step, optimizer=optimizer)
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1).save(int(step))


def write_saved_model(arrays, folder):
    """A SavedModel as Google's code exports it: its list of variables comes before the model's own attributes."""
    module = tf.Module()
    module.model = objects(arrays)
    module.trainable_variables_list = list(module.model.trainable_variables)
    tf.saved_model.save(module, str(folder))
    return folder
