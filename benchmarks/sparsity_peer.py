"""The peer's side of `reconstruct.py --modelopt`: NVIDIA ModelOpt makes convolutions 2:4 by magnitude.

    python sparsity_peer.py WEIGHTS.npz OUT.npz

WEIGHTS has, per convolution, NAME, float32 [out, in / groups, h, w], and NAME.groups. OUT gets the convolutions that
ModelOpt changed. Prints its version. Does not import edgesparse, which need not be installed in that environment.
"""

from __future__ import annotations

import sys
from importlib import metadata

import numpy as np


def main(source: str, out: str) -> None:
    import modelopt.torch.sparsity as mts
    import torch
    from torch import nn

    with np.load(source) as arrays:
        names = [name for name in arrays.files if not name.endswith(".groups")]
        weights = {name: (arrays[name], int(arrays[f"{name}.groups"])) for name in names}
    layers = nn.ModuleList(
        nn.Conv2d(w.shape[1] * groups, w.shape[0], w.shape[2:], groups=groups, bias=False)
        for w, groups in weights.values()
    )
    for layer, (weight, _) in zip(layers, weights.values(), strict=True):
        layer.weight.data = torch.from_numpy(weight.copy())
    sparse = mts.export(mts.sparsify(layers, mode="sparse_magnitude"))
    result = {name: layer.weight.detach().numpy() for name, layer in zip(names, sparse, strict=True)}
    np.savez(out, **{name: weight for name, weight in result.items() if (weight != weights[name][0]).any()})
    print(metadata.version("nvidia-modelopt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
