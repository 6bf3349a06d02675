"""The results tables of the five papers as sheets, one YAML file each: their rows run, compared and drawn.

``PAPER/TABLE.yaml`` holds what is printed and the spec of every row; ``sheet`` reads it.
"""
