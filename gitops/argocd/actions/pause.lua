-- Nothing is made, delivered or revoked until it is resumed.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["llmkeys.dev/paused"] = "true"
return obj
