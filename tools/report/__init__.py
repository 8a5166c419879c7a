"""`vit-report`: what quantisation did to a compiled model, on the terminal and as one HTML page."""
