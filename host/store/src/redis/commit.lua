-- Writes a batch, all of it or nothing.
--
-- KEYS: the hash of each record written.
-- ARGV: the prefix; then of each write: `put`, `renew` or `delete`; the kind; the key; what is expected
--   (`absent`, `any`, or a revision in digits); how many arguments follow; these.
--   A put is followed by the fields and values of its hash, a renewal by the new end of the lease.
-- Returns 0, or which write (from 1) met something else than it expects.
--
-- Redis does not undo what a script has done when a later command fails. Hence everything is checked
-- before anything is written, the first write is one that is refused where memory is short, and what
-- is listed is written before what it lists.

local prefix = ARGV[1]
local LISTED = {'created_at', 'tenant', 'step', 'execution', 'status', 'expires_at'}

-- Numbers of 64 bits stay text: Lua's are exact up to 2^53 only.
local function pad(digits)
  return string.rep('0', 20 - #digits) .. digits
end

local COMPLEMENT = {}
for digit = 0, 9 do COMPLEMENT[tostring(digit)] = tostring(9 - digit) end

-- Returns the places of a record in the listings: the sorted set and the member of each.
local function places(kind, key, values)
  local created, tenant, step, execution, status, expires = unpack(values, 1, #LISTED)
  local found = {}
  local listing = prefix .. 'list:' .. kind
  local member = string.gsub(pad(created), '%d', COMPLEMENT) .. key
  found[listing] = member
  found[listing .. ':tenant:' .. tenant] = member
  if step then found[listing .. ':step:' .. step] = member end
  if execution then found[listing .. ':execution:' .. execution] = member end
  found[listing .. ':status:' .. status] = member
  if expires then found[prefix .. 'expires'] = pad(expires) .. kind .. '/' .. key end
  return found
end

local function meets(expected, revision)
  if expected == 'any' then return true end
  if expected == 'absent' then return not revision end
  return revision == expected
end

local writes = {}
local at = 2
for index, name in ipairs(KEYS) do
  local write = {name = name, operation = ARGV[at], kind = ARGV[at + 1], key = ARGV[at + 2]}
  local expected = ARGV[at + 3]
  write.first = at + 5
  write.last = at + 4 + tonumber(ARGV[at + 4])
  at = write.last + 1
  local old = redis.call('HMGET', name, 'revision', unpack(LISTED))
  local revision = table.remove(old, 1)
  if not meets(expected, revision) then return index end
  if write.operation == 'renew' and old[5] ~= 'running' then return index end
  if revision then write.old = places(write.kind, write.key, old) end
  writes[index] = write
end

for _, write in ipairs(writes) do
  if write.operation == 'renew' then
    redis.call('HSET', write.name, 'lease_until', ARGV[write.first])
  else
    local new = {}
    if write.operation == 'put' then
      local fields = {}
      for field = write.first, write.last, 2 do fields[ARGV[field]] = ARGV[field + 1] end
      local values = {}
      for place, field in ipairs(LISTED) do values[place] = fields[field] end
      new = places(write.kind, write.key, values)
    end
    local old = write.old or {}
    for listing, member in pairs(new) do
      if old[listing] ~= member then redis.call('ZADD', listing, 0, member) end
    end
    for listing, member in pairs(old) do
      if new[listing] ~= member then redis.call('ZREM', listing, member) end
    end
    redis.call('DEL', write.name)
    if write.operation == 'put' then
      redis.call('HSET', write.name, unpack(ARGV, write.first, write.last))
    end
    -- Whoever may not publish may still write: waiters look again by themselves.
    redis.pcall('PUBLISH', prefix .. 'changed', write.kind .. '/' .. write.key)
  end
end
return 0
