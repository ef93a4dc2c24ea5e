"""``mrdib datasets``: the known data sets and forms of data."""

import argparse

from mrdib_pyg.commands.arguments import Add, describe


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    add('datasets', '', 'List the data sets.')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    from mrdib_pyg.datasets import DATASETS, AmazonReviews, InteractionFolder, InteractionTable

    for name, cls in sorted(DATASETS.items()):
        describe(name, cls)
    describe('FOLDER', InteractionFolder)
    print('    <name>.inter, tab separated: userID itemID x_label (0 train, 1 validation, 2 test)')
    print('    <modality>_feat.npy: a row per item; <modality>_mask.npy: which items have it')
    describe('FOLDER by mrdib prepare amazon', AmazonReviews)
    describe('FOLDER by mrdib prepare table', InteractionTable)
