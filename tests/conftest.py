"""Settings of every test: shapes are checked, one thread, float32.

Nothing is seeded and nothing made deterministic here on purpose: steadyq names every draw and promises equal bits as it
ships, and global seeds would hide a draw or a reduction that breaks the promise.
"""

import torch
from jaxtyping import install_import_hook

# Must come before anything imports steadyq.algorithm. Compiling and the hook do not mix: tests about compilation
# run in a process of their own. Only the modules with shapes in their signatures: in the others the check costs ten
# times what the tests do. The numeric tower: an int is welcome where a float is, as for mypy.
install_import_hook(
    [f"steadyq.algorithm.{name}" for name in ("agent", "bootstrap", "nn", "policy", "values")],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

torch.set_default_dtype(torch.float32)
torch.set_num_threads(1)  # tests run side by side, and the last bits depend on the number of threads
