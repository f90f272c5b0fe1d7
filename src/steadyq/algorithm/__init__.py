"""The mathematics: recipes, and agents as pure functions of tensors.

No files, threads, clocks, environments or compilers. May import: `errors`.
"""
