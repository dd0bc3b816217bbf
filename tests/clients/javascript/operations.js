// An ordinary kafkajs client that does once what clients do, and prints what it was told, one
// JSON object a line (type Told of package tests/clients, which starts it and knows the
// arguments).
'use strict'

const { ConfigResourceTypes, Kafka, logLevel } = require('kafkajs')

const PATIENCE_MILLIS = 45_000

const args = Object.fromEntries(process.argv.slice(2).map((word) => [word.slice(0, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]))
const topic = args.topic
const kafka = new Kafka({ brokers: args.bootstrap.split(','), clientId: args.client, logLevel: logLevel.WARN })

function tell (op, { step = '', value = '', offset = -1, time = 0, id = '' }) {
  console.log(JSON.stringify({ op, step, value, offset: Number(offset), epoch: -1, time, id: String(id) }))
}

async function produce (op, acks, idempotent) {
  const producer = kafka.producer({ idempotent })
  await producer.connect()
  const values = Array.from({ length: Number(args.records) }, (_, n) => `${args.client}/${args.tag}/${op}/${n}`)
  const answers = await producer.send({ topic, acks, messages: values.map((value) => ({ value, partition: 0 })) })
  const base = answers.length > 0 ? Number(answers[0].baseOffset) : -1
  values.forEach((value, n) => tell(op, { value, offset: base < 0 ? -1 : base + n }))
  await producer.disconnect()
}

// Tells of the next records and resolves with the offset of the last. The library has no
// assignment by hand: who keeps positions himself seeks in a group of his own.
async function consume (groupId, op, step, count, from) {
  const consumer = kafka.consumer({ groupId })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  let told = 0
  let last
  const done = new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${op} ${step}: ${told} of ${count} records`)), PATIENCE_MILLIS)
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ message }) => {
        if (told === count || (from !== undefined && Number(message.offset) < from)) return
        tell(op, { step, value: message.value.toString(), offset: message.offset })
        last = Number(message.offset)
        if (++told === count) {
          clearTimeout(timer)
          resolve()
        }
      }
    }).catch(reject)
    if (from !== undefined) consumer.seek({ topic, partition: 0, offset: String(from) })
  })
  await done
  return { consumer, last }
}

// Handles count records, commits the position after the last, and leaves.
async function member (op, step, count) {
  const groupId = `${args.client}-${args.tag}-${op.slice('group '.length)}`
  const { consumer, last } = await consume(groupId, op, step, count)
  await consumer.commitOffsets([{ topic, partition: 0, offset: String(last + 1) }])
  await consumer.disconnect()
  const admin = kafka.admin()
  await admin.connect()
  const committed = await admin.fetchOffsets({ groupId, topics: [topic] })
  tell(op, { step: step + ' committed', offset: committed[0].partitions[0].offset })
  await admin.disconnect()
}

async function ask () {
  const admin = kafka.admin()
  await admin.connect()
  for (const text of args.times.split(',')) {
    const at = await admin.fetchTopicOffsetsByTimestamp(topic, Number(text))
    tell('offset by time', { offset: at[0].offset, time: Number(text) })
  }
  const cluster = await admin.describeCluster()
  tell('cluster id', { id: cluster.clusterId })
  for (const node of cluster.brokers) tell('node id', { id: node.nodeId })
  const described = await admin.fetchTopicMetadata({ topics: [topic] })
  tell('leader', { id: described.topics[0].partitions[0].leader })
  const settings = await admin.describeConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: ['cleanup.policy'] }] })
  for (const entry of settings.resources[0].configEntries) tell('setting', { id: entry.configValue })
  await admin.disconnect()
}

async function main () {
  if (args.write === 'true') {
    await produce('produce acks=0', 0, false)
    await produce('produce acks=1', 1, false)
    await produce('produce acks=all', -1, false)
    await produce('produce idempotent', -1, true)
    return
  }
  for (const op of args.groups.split(',')) {
    await member(op, 'first', Number(args.half))
    await member(op, 'second', Number(args.total) - Number(args.half))
  }
  const { consumer } = await consume('unused-' + args.client + '-' + args.tag, 'assign', '', Number(args.rest), Number(args.from))
  await consumer.disconnect()
  await ask()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
