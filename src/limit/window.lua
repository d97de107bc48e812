-- Sliding windows, counted on this Redis's own clock: every counter of one request, all or nothing.
--
--   KEYS  one per counter
--   ARGV  'count' to decide and count, 'look' to count nothing, 'tell' to decide nothing; then four per
--         counter: 'log' or 'cells', the quota, the window in microseconds, and what was admitted
--         elsewhere already and counts in any case (cells only): pairs of a cell's number, a
--         double, and how many, four bytes; big endian
--   gives 1 if admitted else 0; then three per counter: how many are counted, microseconds until
--         one more fits (or until the first leaves), 1 if this counter refused
--
-- Cells are kept as: the newest one's number and that of the oldest with something in it, doubles; the
-- sum of all, what is in the newest, and what is in the thirty before it, oldest first, four bytes each.
--
-- window.rs holds the same arithmetic in Rust; a property test holds the two against each other.

local CELLS = 31

local at = redis.call('TIME')
local now = at[1] * 1000000 + at[2]

-- What nearly every call is, first: one counter with room, nothing that leaves its window, no clock that
-- went back. Everything below costs a call its closures and tables.
if #KEYS == 1 and ARGV[1] == 'count' and ARGV[5] == '' then
  local key, quota, window = KEYS[1], tonumber(ARGV[3]), tonumber(ARGV[4])
  if ARGV[2] == 'cells' then
    local width = math.ceil(window / (CELLS - 1))
    local head = redis.call('GETRANGE', key, 0, 23)
    if #head == 24 then
      local newest, oldest, count, last = struct.unpack('>ddI4I4', head)
      if newest == math.floor(now / width) and count > 0 and count < quota then
        redis.call('SETRANGE', key, 16, struct.pack('>I4I4', count + 1, last + 1))
        return { 1, count + 1, (oldest + CELLS) * width - now, 0 }
      end
    end
  else
    local oldest = tonumber(redis.call('LINDEX', key, 0) or nil)
    if oldest and oldest > now - window then
      local newest = tonumber(redis.call('LINDEX', key, -1))
      local count = redis.call('LLEN', key)
      if newest <= now and count < quota then
        redis.call('RPUSH', key, now)
        redis.call('PEXPIRE', key, math.ceil(window / 1000) + 1000)
        return { 1, count + 1, oldest + window - now, 0 }
      end
    end
  end
end

-- No counter ever lacks an expiry; it comes a second late, never early.
local function expire(key, window)
  redis.call('PEXPIRE', key, math.ceil(window / 1000) + 1000)
end

-- An entry from the future means that the clock went back. It counts as made now, so that nobody is
-- refused for longer than one window after that, and nothing is forgotten.
local function pull_back(key, window)
  local entries = redis.call('LRANGE', key, 0, -1)
  redis.call('DEL', key)
  for _, entry in ipairs(entries) do
    redis.call('RPUSH', key, math.min(tonumber(entry), now))
  end
  expire(key, window)
end

local Log = {}

-- Drops what has left the window. A list, not a sorted set: a tenth of the memory at 1,000 entries.
function Log.read(c)
  c.count, c.oldest = 0, now
  local newest = tonumber(redis.call('LINDEX', c.key, -1) or nil)
  if not newest then return end
  if newest <= now - c.window then
    redis.call('DEL', c.key)
    return
  end
  if newest > now then pull_back(c.key, c.window) end
  local held, gone, run, live = redis.call('LLEN', c.key), 0, 4, nil
  while not live and gone < held do
    for _, entry in ipairs(redis.call('LRANGE', c.key, gone, gone + run - 1)) do
      local made = tonumber(entry)
      if made > now - c.window then
        live = made
        break
      end
      gone = gone + 1
    end
    run = run * 4
  end
  if gone > 0 then redis.call('LTRIM', c.key, gone, -1) end
  c.count, c.oldest = held - gone, live or now
end

function Log.reset(c)
  if c.count == 0 then return 0 end
  local leaves = c.oldest
  if c.count > c.quota then
    leaves = tonumber(redis.call('LINDEX', c.key, c.count - c.quota))
  end
  return leaves + c.window - now
end

function Log.add(c)
  redis.call('RPUSH', c.key, now)
  expire(c.key, c.window)
  c.count = c.count + 1
end

local Cells = {}

local OLDER = string.rep('I4', CELLS - 1)

local function keep(c)
  local oldest = c.newest
  for i = 1, CELLS do
    if c.cells[i] > 0 then
      oldest = c.newest - CELLS + i
      break
    end
  end
  local head = struct.pack('>ddI4I4', c.newest, oldest, c.count, c.cells[CELLS])
  local older = struct.pack('>' .. OLDER, unpack(c.cells, 1, CELLS - 1))
  redis.call('SET', c.key, head .. older, 'PX', math.ceil(CELLS * c.width / 1000) + 1000)
end

-- Thirty cells cover the window; the thirty-first is the one that it leaves, counted whole.
function Cells.read(c)
  c.width = math.ceil(c.window / (CELLS - 1))
  c.newest = math.floor(now / c.width)
  local cells, count, held, newest = {}, 0, nil, c.newest
  local packed = redis.call('GET', c.key)
  if packed then
    newest = struct.unpack('>d', packed)
    held = { struct.unpack('>' .. OLDER, packed, 25) }
    held[CELLS] = struct.unpack('>I4', packed, 21)
  end
  -- To the cell at i belongs what was held at i + passed.
  local passed = c.newest - newest
  for i = 1, CELLS do
    local from = i + passed
    local n = held and from >= 1 and from <= CELLS and held[from] or 0
    cells[i] = n
    count = count + n
  end
  -- Cells from the future count as made now, as in pull_back. That is kept even if nothing is
  -- added, or they would be made now again and again.
  if passed < 0 then
    for i = math.max(CELLS + passed, 0) + 1, CELLS do
      cells[CELLS] = cells[CELLS] + held[i]
      count = count + held[i]
    end
  end
  -- What was admitted elsewhere goes to the cell that it was made in; what has left the window by now is gone.
  for at = 1, #c.told, 12 do
    local cell, n = struct.unpack('>dI4', c.told, at)
    local i = math.min(cell, c.newest) - c.newest + CELLS
    if i >= 1 then
      cells[i] = cells[i] + n
      count = count + n
    end
  end
  c.cells, c.count = cells, count
  if passed < 0 or #c.told > 0 then keep(c) end
end

function Cells.reset(c)
  local left = c.count
  for i = 1, CELLS do
    left = left - c.cells[i]
    if c.cells[i] > 0 and left < c.quota then
      return (c.newest + i) * c.width - now
    end
  end
  return 0
end

function Cells.add(c)
  c.cells[CELLS] = c.cells[CELLS] + 1
  c.count = c.count + 1
  keep(c)
end

local mode = ARGV[1]
local counters, admitted = {}, true
for i, key in ipairs(KEYS) do
  local c = {
    key = key,
    kind = ARGV[4 * i - 2] == 'log' and Log or Cells,
    quota = tonumber(ARGV[4 * i - 1]),
    window = tonumber(ARGV[4 * i]),
    told = ARGV[4 * i + 1],
  }
  c.kind.read(c)
  c.full = c.count >= c.quota and mode ~= 'tell'
  admitted = admitted and not c.full
  counters[i] = c
end

local reply = { admitted and 1 or 0 }
for _, c in ipairs(counters) do
  if admitted and mode == 'count' then c.kind.add(c) end
  reply[#reply + 1] = c.count
  reply[#reply + 1] = c.kind.reset(c)
  reply[#reply + 1] = c.full and 1 or 0
end
return reply
