"""Makes every file in the folder above, or exits with 1 if int8 costs too much accuracy."""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from . import digits, evaluate, files, vibration
from .golden import first_of_each_class
from .model import MAX_DROP_POINTS, Recipe, Report, export, measure, train
from .nets import digits_net, vibration_net

FOLDER = Path(__file__).resolve().parent.parent


def make(recipe: Recipe) -> tuple[Report, np.ndarray]:
    """Makes, checks and writes one model; returns its report and its golden inputs [K, ...]."""
    path = FOLDER / f"{recipe.name}.onnx"
    floats = export(recipe, train(recipe), path)
    report, golden = measure(recipe, floats, path)
    inputs = recipe.data.test.inputs[golden]
    files.write_labels(FOLDER / f"{recipe.name}.labels.txt", recipe.data.labels)
    files.write_golden(FOLDER, recipe.name, inputs, evaluate.run(path, inputs))
    print(
        f"{recipe.name}: float {report.accuracy_float:.2%}, int8 {report.accuracy_int8:.2%}, "
        f"drop {report.drop_points:.2f} points, {report.macs / 1e6:.2f} M MACs, "
        f"{report.bytes} bytes; golden outputs of the default and the exact mode differ by "
        f"{report.golden_max_difference_steps} steps"
    )
    return report, inputs


def make_vibration() -> Report:
    """The vibration model and the recorded stream."""
    pick = partial(first_of_each_class, 2, False)
    recipe = Recipe("vibration", vibration.load(), vibration_net, epochs=8, golden=pick)
    report, _ = make(recipe)
    recording = vibration.stream()
    (FOLDER / "vibration.stream.csv").write_text(vibration.stream_csv(recording))
    whole = recording.samples.reshape(-1, vibration.WINDOW, 3)
    found = evaluate.run(FOLDER / "vibration.onnx", whole).argmax(1)
    truth = [vibration.STATES.index(s) for _, _, s in recording.segments]
    right = float(np.mean(found.reshape(len(truth), -1) == np.array(truth)[:, None]))
    print(f"vibration: {right:.2%} of the stream's windows right")
    facts = vibration.stream_facts(recording) | {"int8_classes": found.tolist()}
    files.write_json(FOLDER / "vibration.stream.json", facts)
    return report


def make_digits() -> Report:
    """The digits model and one sample image of each digit."""
    pick = partial(first_of_each_class, 1, True)
    recipe = Recipe("digits", digits.load(), digits_net, epochs=20, golden=pick)
    report, inputs = make(recipe)
    for label, image in enumerate(inputs):
        files.write_digit(FOLDER, label, np.round(image[0] * 255).astype(np.uint8))
    return report


def main() -> int:
    """Exit status: 1 if int8 loses more than MAX_DROP_POINTS on either model."""
    reports = {"vibration": make_vibration(), "digits": make_digits()}
    files.write_json(FOLDER / "accuracy.json", {k: asdict(r) for k, r in reports.items()})
    files.check_sizes(FOLDER)
    status = 0
    for name, report in reports.items():
        if report.drop_points > MAX_DROP_POINTS:
            print(f"{name}: int8 loses {report.drop_points} points, {MAX_DROP_POINTS} allowed")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
