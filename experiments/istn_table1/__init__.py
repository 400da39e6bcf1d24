"""Paper B, Table 1: Morpho-MNIST."""
