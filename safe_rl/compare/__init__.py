"""Compares methods: the same data, the same pretrained risk critic, many seeds, side by side."""
