// An ordinary kafkajs client that writes down what it was told, in the format of package
// tests/orders/history: one JSON object a line. It ends when its standard input ends: a
// producer waits for its answers first, a reader goes on until it has got nothing for five
// seconds. Arguments are NAME=VALUE words: roles=producer,group (as client NAME-producer,
// ...), bootstrap, client, topics=a,b, partitions, rate, idempotent=true|false, acks=0|1|all,
// group. The library has no assignment by hand.
'use strict'

const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require('kafkajs')
const SnappyCodec = require('kafkajs-snappy')

CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec

const QUIET_MILLIS = 5_000
const args = Object.fromEntries(process.argv.slice(2).map((word) => [word.slice(0, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]))
const topics = args.topics.split(',')
const nanosBase = BigInt(Date.now()) * 1_000_000n - process.hrtime.bigint()

let stopping = false
const ended = new Promise((resolve) => {
  process.stdin.on('end', resolve)
  process.stdin.on('error', resolve)
}).then(() => { stopping = true })
process.stdin.resume()

const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis))

// A number of nanoseconds is no number of JavaScript, so it is put in as text.
function emit (client, kind, fields) {
  const rest = JSON.stringify({ e: kind, client, ...fields }).slice(1)
  process.stdout.write(`{"t":${nanosBase + process.hrtime.bigint()},${rest}\n`)
}

const table = Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1
  return n >>> 0
})

function crc32 (text) {
  let sum = 0xffffffff
  for (const byte of Buffer.from(text)) sum = table[(sum ^ byte) & 0xff] ^ (sum >>> 8)
  return ((sum ^ 0xffffffff) >>> 0).toString(16).padStart(8, '0')
}

function kafka (client) {
  return new Kafka({ brokers: args.bootstrap.split(','), clientId: client, logLevel: logLevel.WARN })
}

async function produce (client) {
  const idempotent = args.idempotent !== 'false'
  const acks = { 0: 0, 1: 1, all: -1 }[args.acks]
  emit(client, 'start', { role: 'producer', acks: args.acks, ...(idempotent ? { idempotent } : {}) })
  const connected = async () => {
    const producer = kafka(client).producer({ idempotent })
    await producer.connect()
    return producer
  }
  let producer = await connected()
  const all = topics.flatMap((topic) => Array.from({ length: Number(args.partitions) }, (_, partition) => ({ topic, partition, counter: 0 })))
  const begun = Date.now()
  let n = 0
  while (!stopping) {
    const ahead = begun + n * 1000 / Number(args.rate) - Date.now()
    if (ahead > 0) await pause(ahead)
    // What has come due while the last batch was under way goes together, as its guide advises.
    const sent = []
    for (; sent.length < BATCH_RECORDS && begun + n * 1000 / Number(args.rate) <= Date.now(); n++) {
      const { topic, partition } = all[n % all.length]
      const payload = `${client}/${topic}/${partition}/${all[n % all.length].counter++}`
      const key = `sale-${client}-${Math.floor(n / all.length)}`
      const body = `${payload} order=${key}`
      emit(client, 'invoke', { payload })
      sent.push({ topic, partition, payload, message: { key, value: `${body} sum=${crc32(body)}`, partition } })
    }
    if (await send(producer, client, acks, sent)) continue
    // Its sequence numbers do not survive a batch that it gave up.
    await producer.disconnect()
    for (producer = undefined; producer === undefined;) producer = await connected().catch(() => pause(500))
  }
  await producer.disconnect()
}

const BATCH_RECORDS = 100

// Resolves with false where the library has given up.
async function send (producer, client, acks, sent) {
  if (sent.length === 0) return true
  const topicMessages = topics.map((topic) => ({ topic, messages: sent.filter((one) => one.topic === topic).map((one) => one.message) }))
  let answers
  try {
    answers = await producer.sendBatch({ acks, topicMessages: topicMessages.filter(({ messages }) => messages.length > 0) })
  } catch (error) {
    for (const { payload } of sent) emit(client, 'fail', { payload, error: String(error) })
    return false
  }
  const next = new Map(answers.map((told) => [`${told.topicName}/${told.partition}`, Number(told.baseOffset)]))
  for (const { topic, partition, payload } of sent) {
    const at = `${topic}/${partition}`
    const offset = next.get(at)
    emit(client, 'ack', { payload, ...(offset === undefined ? {} : { offset }) })
    if (offset !== undefined) next.set(at, offset + 1)
  }
  return true
}

async function readInGroup (client) {
  const group = args.group
  emit(client, 'start', { role: 'group', group })
  const consumer = kafka(client).consumer({ groupId: group })
  let lastRecord = Date.now()
  let assigned = 0
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    assigned = 0
    for (const [topic, partitions] of Object.entries(payload.memberAssignment)) {
      for (const partition of partitions) {
        assigned++
        emit(client, 'position', { topic, partition: Number(partition) })
      }
    }
  })
  consumer.on(consumer.events.COMMIT_OFFSETS, ({ payload }) => {
    for (const { topic, partitions } of payload.topics) {
      for (const { partition, offset } of partitions) emit(client, 'commit', { group, topic, partition: Number(partition), offset: Number(offset) })
    }
  })
  await consumer.connect()
  await consumer.subscribe({ topics, fromBeginning: true })
  await consumer.run({
    eachMessage: async ({ topic, partition, message }) => {
      lastRecord = Date.now()
      emit(client, 'consume', { topic, partition, offset: Number(message.offset), payload: message.value.toString().split(' ', 1)[0] })
    }
  })
  await ended
  lastRecord = Date.now()
  while (Date.now() - lastRecord < QUIET_MILLIS) {
    if (assigned === 0) lastRecord = Date.now()
    await pause(50)
  }
  await consumer.disconnect()
}

const work = { producer: produce, group: readInGroup }

async function play (role) {
  const client = `${args.client}-${role}`
  await work[role](client)
  emit(client, 'stop', role === 'producer' ? {} : { drained: true })
}

Promise.all(args.roles.split(',').map(play)).then(() => process.exit(0), (error) => {
  console.error(error)
  process.exit(1)
})
