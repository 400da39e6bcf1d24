"""The pre-flight check: measures, findings and requirements that show whether a design can be identified."""
