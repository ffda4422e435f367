-- One turn of a gateway process with all its counters: what it used is added, what it holds is
-- written anew, and each request that waits gets room in all of its counters or in none.
--
-- ARGV[1] is JSON:
--   p, s   the process, and the number of its turn: told again, a turn is answered again, not done
--   ttl    seconds after which a process that says nothing holds nothing any more
--   c      counters: k its key, a its amount, h what the process holds, d used since the last turn,
--          x when it may be forgotten, b 1 if it must have been built from the ledger before,
--          l what the process would like to have in store, g below how much room nothing is stored,
--          o and w start and length of a window that slides, q the key of the window before,
--          n the part at which somebody is to be told (0: never)
--   t      requests that wait: lists of [counter, need]
-- The answer is JSON: c: room left, l stored, a seconds since room became scarce (-1: it is not),
-- u 1 where the counter is not built, n 1 where somebody is to be told; t: 0 granted, -1 not built,
-- or the number of the counter that has no room.
local turn = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local mine = 'limits:process:' .. turn.p
local number = string.format('%.0f', turn.s)
local before = redis.call('HMGET', mine, 'turn', 'answer')
if before[1] == number then
  redis.call('EXPIRE', mine, turn.ttl)
  return before[2]
end

local living = {}
local function lives(process)
  if living[process] == nil then
    living[process] = redis.call('EXISTS', 'limits:process:' .. process) == 1
  end
  return living[process]
end

local function whole(value) return string.format('%.0f', value) end

local states, answer = {}, { c = {}, t = {} }
for index, c in ipairs(turn.c) do
  local state = { hold = c.h, used = c.h, spent = 0 }
  states[index] = state
  if c.b == 1 and redis.call('EXISTS', c.k) == 0 then
    state.unbuilt = true
  else
    if c.d > 0 then redis.call('HINCRBY', c.k, 'spent', whole(c.d)) end
    local fields = redis.call('HGETALL', c.k)
    for at = 1, #fields, 2 do
      local name, value = fields[at], tonumber(fields[at + 1])
      if name == 'spent' then
        state.spent = value
      elseif name == 'scarce' then
        state.scarce = value
      elseif string.sub(name, 1, 2) == 'h:' then
        local process = string.sub(name, 3)
        if process ~= turn.p then
          if lives(process) then state.used = state.used + value
          else redis.call('HDEL', c.k, name) end
        end
      end
    end
    state.used = state.used + state.spent
    if c.w > 0 then
      local past = tonumber(redis.call('HGET', c.q, 'spent') or 0)
      local left = 1 - (now - c.o) / c.w
      if left > 1 then left = 1 elseif left < 0 then left = 0 end
      state.used = state.used + math.floor(past * left)
    end
  end
end

for index, wants in ipairs(turn.t) do
  local refused = 0
  for _, want in ipairs(wants) do
    local c, state = turn.c[want[1]], states[want[1]]
    if state.unbuilt then refused = -1 break end
    if state.used + want[2] > c.a then refused = want[1] break end
  end
  if refused == 0 then
    for _, want in ipairs(wants) do
      local state = states[want[1]]
      state.used = state.used + want[2]
      state.hold = state.hold + want[2]
    end
  end
  answer.t[index] = refused
end

for index, c in ipairs(turn.c) do
  local state = states[index]
  if state.unbuilt then
    answer.c[index] = { u = 1, r = '0', l = '0', a = -1, n = 0 }
  else
    local stored, room = 0, c.a - state.used
    if c.l > 0 and room - c.l >= c.g then
      stored = c.l
      room = room - stored
      state.hold = state.hold + stored
    end
    local age = -1
    if room < c.g then
      if state.scarce == nil then
        state.scarce = now
        redis.call('HSET', c.k, 'scarce', string.format('%.6f', now))
      end
      age = now - state.scarce
    elseif state.scarce ~= nil and room >= 2 * c.g then
      redis.call('HDEL', c.k, 'scarce')
    end
    local told = 0
    if c.n > 0 and state.spent >= c.n and redis.call('HSETNX', c.k, 'told:' .. whole(c.n), 1) == 1 then
      told = 1
    end
    if state.hold > 0 then redis.call('HSET', c.k, 'h:' .. turn.p, whole(state.hold))
    else redis.call('HDEL', c.k, 'h:' .. turn.p) end
    if c.b == 1 and redis.call('EXISTS', c.k) == 0 then redis.call('HSET', c.k, 'spent', '0') end
    redis.call('EXPIREAT', c.k, whole(c.x))
    if room < 0 then room = 0 end
    answer.c[index] = { u = 0, r = whole(room), l = whole(stored), a = age, n = told }
  end
end

local said = cjson.encode(answer)
redis.call('HSET', mine, 'turn', number, 'answer', said)
redis.call('EXPIRE', mine, turn.ttl)
return said
