"""Narrow weights: number grids, the algorithms that choose codes, and the rewrite of the graph."""
