"""The data set on disk: TensorStore arrays beside a manifest."""
