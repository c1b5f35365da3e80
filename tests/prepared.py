"""Directories as tfds prepares them, of either kind of record."""

import numpy as np

from topojax.data import tfds_arrays


def prepared(place, image, label, kind, *, shards=1):
    """The directory of a data set `mine` of images [n, H, W, C] uint8, the last fifth of them to test."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    n = len(image) * 4 // 5
    split = {
        name: tf.data.Dataset.from_tensor_slices({"image": image[part], "label": label[part]})
        for name, part in (("train", slice(n)), ("test", slice(n, None)))
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mine",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=image.shape[1:]),
                "label": tfds.features.ClassLabel(num_classes=int(np.max(label)) + 1),
            }
        ),
        split_datasets=split,
        data_dir=str(place),
        disable_shuffling=True,
        file_format=kind,
        **({} if shards == 1 else {"download_config": tfds.download.DownloadConfig(num_shards=shards)}),
    )
    return tfds_arrays.find("mine", str(place))
