"""The reference's training of a head on a frozen backbone, in Keras; ``cpu.py`` runs it in a separate environment.

Prints, as JSON, the seconds of the given number of epochs, extrapolated from three epochs, and a remark.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from statistics import median

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import tensorflow as tf

SIZE, BATCH, WARM_UP, TIMED = (224, 224), 64, 1, 2
BACKBONES = {
    "tf_mobilenetv3_large_100": keras.applications.MobileNetV3Large,
    "tf_mobilenetv3_small_100": keras.applications.MobileNetV3Small,
}


def main() -> None:
    """Train three epochs and print the time extrapolated to all epochs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--net", choices=BACKBONES, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    options = parser.parse_args()

    start = time.perf_counter()
    train, val = keras.utils.image_dataset_from_directory(
        options.root,
        label_mode="categorical",
        image_size=SIZE,
        batch_size=BATCH,
        validation_split=0.3,
        subset="both",
        seed=42,
        verbose=False,
    )
    counts = [sum(file.is_file() for file in (options.root / name).iterdir()) for name in train.class_names]
    backbone = BACKBONES[options.net](
        input_shape=(*SIZE, 3), include_top=False, weights=None, include_preprocessing=True
    )
    backbone.trainable = False
    inputs = keras.Input((*SIZE, 3))
    features = keras.layers.GlobalAveragePooling2D()(backbone(inputs, training=False))
    outputs = keras.layers.Dense(len(counts), activation="softmax")(keras.layers.Dropout(0.2)(features))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(1e-3), loss="categorical_crossentropy", metrics=["accuracy"])
    ends: list[float] = []
    model.fit(
        train.cache().prefetch(tf.data.AUTOTUNE),
        validation_data=val.cache().prefetch(tf.data.AUTOTUNE),
        epochs=WARM_UP + TIMED,
        class_weight={label: max(counts) / count for label, count in enumerate(counts)},
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))],
        verbose=0,
    )
    first = ends[0] - start
    later = median(after - before for before, after in itertools.pairwise(ends))
    remark = f"{first:.1f} s + {options.epochs - 1} × {later:.1f} s"
    print(json.dumps([first + (options.epochs - 1) * later, remark]), flush=True)


if __name__ == "__main__":
    main()
