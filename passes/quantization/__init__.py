"""From float operations to integer ones: choosing formats, building the `vit` graph.

`formats` chooses a number format for a range, `graph` keeps for every float value the integers
that stand for it and requantises them on request, `rules` says what each float operation becomes.
The passes `quantize` and `pot-fold` are made of these.
"""
