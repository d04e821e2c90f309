"""How the demo's detector is trained: dense, then 2:4. Run by scripts/train_demo_model; no part of the package."""
