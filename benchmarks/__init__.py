"""How fast steadyq is: `make bench`."""

import steadyq  # noqa: F401, before PyTorch: it sets how long OpenMP's threads spin
