"""Prompts of the methods' studies: text, and the columns that an analysis reads about it.

Rows of plain values, to be written as JSON lines and captured like any input; their columns go into
the store's `examples` table, where the analysis of the same name finds them.
"""
