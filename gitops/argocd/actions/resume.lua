-- The operator goes on.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["llmkeys.dev/paused"] = nil
return obj
