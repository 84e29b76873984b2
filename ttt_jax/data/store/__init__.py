"""The data set on disk: TensorStore arrays and a manifest."""
