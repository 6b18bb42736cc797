"""Composing multi-label images: the public name of `nclib.data.compose`."""

from nclib.data.compose import MultiLabelData, compose, pair_group_counts

__all__ = ["MultiLabelData", "compose", "pair_group_counts"]
