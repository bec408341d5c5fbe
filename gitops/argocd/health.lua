-- Health of LLMKey, RotationPolicy, ClusterRotationPolicy and LLMProvider in Argo CD.
local function verdict(status, message)
  return { status = status, message = message or "" }
end

if obj.metadata.deletionTimestamp ~= nil then
  return verdict("Progressing", "it is being deleted")
end

local status = obj.status or {}
local seen = status.observedGeneration
if seen == nil or (obj.metadata.generation ~= nil and seen < obj.metadata.generation) then
  return verdict("Progressing", "the operator has not looked at this spec yet")
end

local told = {}
for _, condition in ipairs(status.conditions or {}) do
  told[condition.type] = condition
end
local function is(kind, wanted)
  return told[kind] ~= nil and told[kind].status == wanted
end

if is("Stalled", "True") then
  return verdict("Degraded", told.Stalled.message)
end
if (obj.metadata.annotations or {})["llmkeys.dev/paused"] == "true" then
  return verdict("Suspended", "paused by the annotation llmkeys.dev/paused")
end
if is("Reconciling", "True") then
  return verdict("Progressing", told.Reconciling.message)
end
if is("Ready", "True") then
  return verdict("Healthy", told.Ready.message)
end
if is("Ready", "False") then
  return verdict("Degraded", told.Ready.message)
end
return verdict("Progressing", "nothing is known yet")
