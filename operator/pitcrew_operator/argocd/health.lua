-- Health of Pitcrew's resources by their kstatus conditions, of which exactly one is true.
local health = {status = "Progressing", message = "the operator has not looked at this spec yet"}
local status = obj.status or {}
if status.observedGeneration ~= obj.metadata.generation then
  return health
end
local words = {Ready = "Healthy", Reconciling = "Progressing", Stalled = "Degraded"}
-- Held by the spec's own word, until the spec says otherwise.
local held = {Suspended = true, RolloutPaused = true}
for _, condition in ipairs(status.conditions or {}) do
  if words[condition.type] and condition.status == "True" then
    health.status = held[condition.reason] and "Suspended" or words[condition.type]
    health.message = condition.reason .. ": " .. condition.message
  end
end
return health
