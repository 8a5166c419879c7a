"""C backend: a `vit` module becomes a self-contained C11 project of integer arithmetic.

| module | does |
|---|---|
| `code` | the small language the backend speaks: kernel calls on buffers, and its C text |
| `graph` | flattens pipelines and aliases, counts uses, finds what fuses into one call |
| `lowering`, `products`, `rows`, `movement` | one function per operation: its kernel calls |
| `planner` | offsets of the buffers in the caller's arena, from their lifetimes |
| `emit` | writes the project: model.c/.h, weights.bin, kernels, build files, main.c |
| `build` | runs the system compiler, with a cache of kernel objects |
| `run` | loads the library and calls it on numpy arrays |
| `target` | the text target `vit-c` |
"""
