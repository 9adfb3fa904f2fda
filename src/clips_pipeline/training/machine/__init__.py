"""What this machine allows a rank: its cores, its loader workers, and memory for hidden layers."""

__all__ = ["cores", "hidden_layers", "loader_workers"]
