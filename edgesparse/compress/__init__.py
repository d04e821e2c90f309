"""Change a network so that it runs faster: `slim` rewrites it without changing its outputs."""

from edgesparse.compress.rewrite import SlimOptions as SlimOptions
from edgesparse.compress.rewrite import SlimReport as SlimReport
from edgesparse.compress.rewrite import slim as slim
