-- Sliding windows, counted on this Redis's own clock: every counter of one request, all or nothing.
--
--   KEYS  one per counter
--   ARGV  three per counter: 'log' or 'cells', the quota, the window in microseconds; then 'look' to
--         count nothing
--   gives 1 if admitted else 0; then three per counter: how many are counted, microseconds until
--         one more fits (or until the first leaves), 1 if this counter refused
--
-- window.rs holds the same arithmetic in Rust; a property test holds the two against each other.

local CELLS = 31

local at = redis.call('TIME')
local now = at[1] * 1000000 + at[2]

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

local PACKED = '>d' .. string.rep('I4', CELLS)

local function keep(c)
  local packed = struct.pack(PACKED, c.newest, unpack(c.cells))
  redis.call('SET', c.key, packed, 'PX', math.ceil(CELLS * c.width / 1000) + 1000)
end

-- Thirty cells cover the window; the thirty-first is the one that it leaves, counted whole.
function Cells.read(c)
  c.width = math.ceil(c.window / (CELLS - 1))
  c.newest = math.floor(now / c.width)
  local cells, count, held, newest = {}, 0, nil, c.newest
  local packed = redis.call('GET', c.key)
  if packed then
    held = { struct.unpack(PACKED, packed) }
    newest = held[1]
  end
  -- To the cell at i belongs what was held at i + passed; held[1] is no cell.
  local passed = c.newest - newest
  for i = 1, CELLS do
    local from = i + passed
    local n = held and from >= 1 and from <= CELLS and held[from + 1] or 0
    cells[i] = n
    count = count + n
  end
  -- Cells from the future count as made now, as in pull_back. That is kept even if nothing is
  -- added, or they would be made now again and again.
  if passed < 0 then
    for i = math.max(CELLS + passed, 0) + 1, CELLS do
      cells[CELLS] = cells[CELLS] + held[i + 1]
      count = count + held[i + 1]
    end
  end
  c.cells, c.count = cells, count
  if passed < 0 then keep(c) end
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

local counters, admitted = {}, true
for i, key in ipairs(KEYS) do
  local c = {
    key = key,
    kind = ARGV[3 * i - 2] == 'log' and Log or Cells,
    quota = tonumber(ARGV[3 * i - 1]),
    window = tonumber(ARGV[3 * i]),
  }
  c.kind.read(c)
  c.full = c.count >= c.quota
  admitted = admitted and not c.full
  counters[i] = c
end

local look = ARGV[3 * #KEYS + 1] == 'look'
local reply = { admitted and 1 or 0 }
for _, c in ipairs(counters) do
  if admitted and not look then c.kind.add(c) end
  reply[#reply + 1] = c.count
  reply[#reply + 1] = c.kind.reset(c)
  reply[#reply + 1] = c.full and 1 or 0
end
return reply
