"""Trains the demo's detector, dense and then 2:4. Run by scripts/train_demo_model; not part of the package."""
