"""Tables of embeddings: one Parquet file with a vector for each image or text, and search in it."""

__all__ = ["faiss_index", "index", "lookup", "near_duplicates", "table"]
