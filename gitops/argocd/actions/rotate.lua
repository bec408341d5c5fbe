-- Another key now: a new token.
local os = require("os")
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["llmkeys.dev/rotate"] = os.date("!%Y-%m-%dT%XZ")
return obj
