"""Train, resume, test, predict and export without the command line."""

import lightning

from animals_pl import AnimalClassifier, AnimalsDataModule, export, fit, load_model

lightning.seed_everything(42)
data = AnimalsDataModule("images", size=16, batch_size=16, test_fraction=0.2, num_workers=0)
model = AnimalClassifier(net="shallownet", class_weights="balanced", lr=0.005)

run = fit(model, data, name="mine", max_epochs=2)
run = fit(model, data, ckpt_path=run.last_path, max_epochs=3)

metrics = run.test()
predictions = run.best.predict(["images/cane", "images/gatto/gatto_0.jpg"])
export(str(run.best_path), "model.onnx")
again = load_model("checkpoints/mine/version_0/best.ckpt").predict(["images/cane"])
