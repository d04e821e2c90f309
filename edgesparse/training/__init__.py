"""2:4 sparsity inside a PyTorch training loop, and the check that an exported ONNX still has it.

`edgesparse.training.masks.sparsify` needs PyTorch (`pip install edgesparse[train]`);
`edgesparse.training.check.check_onnx` does not.
"""
