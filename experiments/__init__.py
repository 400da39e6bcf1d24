"""One folder a published table: the command that reruns it, and the table it wrote."""
