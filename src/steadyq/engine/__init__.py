"""How a step is run: on this machine, compiled, in place, for several seeds.

May import: `algorithm`.
"""
