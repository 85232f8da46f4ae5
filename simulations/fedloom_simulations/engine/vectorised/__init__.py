"""Many clients as one computation: parameters, batches and optimisers stacked along a leading axis.

Equal to `TorchTrainer` client by client, within float tolerance. The axes in this package's comments:
K clients of a chunk, B examples of a batch (padded to the largest), C channels.
"""
