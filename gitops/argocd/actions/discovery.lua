-- What can be done with an LLMKey.
local annotations = obj.metadata.annotations or {}
local paused = annotations["llmkeys.dev/paused"] == "true"
return {
  rotate = { disabled = paused or obj.spec.pinnedVersion ~= nil },
  refresh = { disabled = false },
  pause = { disabled = paused },
  resume = { disabled = not paused },
}
