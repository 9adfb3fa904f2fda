"""What a trained model can do: retrieval, zero-shot classification, captioning loss, and the report of them."""
