-- Lists records, the newest first, from behind a place on.
--
-- KEYS: the prefix. It is no key; it says where on a cluster this is to run.
-- ARGV: the kind; then, each empty where nothing is asked for, and else with `=` before it: the tenant,
--   the step, the execution, the status; then, empty where nothing is asked for: created before, the
--   last one's time of creation, its key; how many at most; how many to look at, at most; the names of
--   the fields wanted.
-- Returns the time in seconds and microseconds, the place of the last one looked at (its time of
--   creation and its key; nothing at the end), and for each record its key and its fields.

local prefix = KEYS[1]
local kind, before, after_created, after_key = ARGV[1], ARGV[6], ARGV[7], ARGV[8]
local limit, look = tonumber(ARGV[9]), tonumber(ARGV[10])
local wanted = {unpack(ARGV, 11)}

local COMPLEMENT = {}
for digit = 0, 9 do COMPLEMENT[tostring(digit)] = tostring(9 - digit) end

local function complement(digits)
  return (string.gsub(string.rep('0', 20 - #digits) .. digits, '%d', COMPLEMENT))
end

-- The shortest listing that has them all; the rest is asked of each record.
local listing = prefix .. 'list:' .. kind
local shortest = redis.call('ZCARD', listing)
local asked = {}
local best = listing
for place, field in ipairs({'tenant', 'step', 'execution', 'status'}) do
  local argument = ARGV[place + 1]
  if argument ~= '' then
    local value = string.sub(argument, 2)
    asked[#asked + 1] = {field, value}
    local narrower = listing .. ':' .. field .. ':' .. value
    local length = redis.call('ZCARD', narrower)
    if length < shortest then best, shortest = narrower, length end
  end
end

-- Keys are visible ASCII, so that 127 stands behind each of them.
local from = '-'
if before ~= '' then from = '(' .. complement(before) .. '\127' end
if after_created ~= '' then
  local behind = '(' .. complement(after_created) .. after_key
  if from == '-' or behind > from then from = behind end
end

local members = redis.call('ZRANGEBYLEX', best, from, '+', 'LIMIT', 0, look)
local found = {}
local last = #members == look and members[look]
for place, member in ipairs(members) do
  local key = string.sub(member, 21)
  local name = prefix .. 'record:' .. kind .. ':' .. key
  local fits = true
  if #asked > 0 then
    for _, ask in ipairs(asked) do
      if redis.call('HGET', name, ask[1]) ~= ask[2] then fits = false end
    end
  end
  if fits then
    local values = redis.call('HMGET', name, unpack(wanted))
    if values[1] then found[#found + 1] = {key, values} end
  end
  if #found == limit then
    last = place < #members and member or last
    break
  end
end

local place = false
if last then place = {complement(string.sub(last, 1, 20)), string.sub(last, 21)} end
return {redis.call('TIME'), place, found}
