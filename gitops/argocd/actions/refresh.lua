-- Everything is looked at, and the key checked, now: a new token.
local os = require("os")
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["llmkeys.dev/refresh"] = os.date("!%Y-%m-%dT%XZ")
return obj
