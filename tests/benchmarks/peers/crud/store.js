// The CRUD store that chatledger replaces, written again from its description: Fastify, Drizzle, better-sqlite3.
// It is given an index by session, which not every such store had: a read by scan would be no match.

import { randomUUID } from "node:crypto";
import Database from "better-sqlite3";
import { eq, relations } from "drizzle-orm";
import { drizzle } from "drizzle-orm/better-sqlite3";
import { index, integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
import Fastify from "fastify";

const sessions = sqliteTable("sessions", {
  id: text("id").primaryKey(),
  tenantId: text("tenant_id").notNull(),
  userId: text("user_id"),
  traits: text("traits", { mode: "json" }),
  createdAt: integer("created_at").notNull(),
});

const messages = sqliteTable(
  "messages",
  {
    id: text("id").primaryKey(),
    sessionId: text("session_id")
      .notNull()
      .references(() => sessions.id, { onDelete: "cascade" }),
    role: text("role").notNull(),
    content: text("content", { mode: "json" }),
    createdAt: integer("created_at").notNull(),
  },
  (table) => [index("messages_session").on(table.sessionId)],
);

const sessionsRelations = relations(sessions, ({ many }) => ({ messages: many(messages) }));
const messagesRelations = relations(messages, ({ one }) => ({
  session: one(sessions, { fields: [messages.sessionId], references: [sessions.id] }),
}));

const TABLES = `
CREATE TABLE IF NOT EXISTS sessions (
  id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, user_id TEXT, traits TEXT, created_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
  id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
  role TEXT NOT NULL, content TEXT, created_at INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS messages_session ON messages (session_id);`;

const file = new Database(process.env.DATABASE_PATH ?? ":memory:");
if (process.env.JOURNAL === "wal") {
  file.pragma("journal_mode = WAL");
  file.pragma("synchronous = FULL");
}
file.exec(TABLES);
const db = drizzle(file, { schema: { sessions, messages, sessionsRelations, messagesRelations } });

function createSession({ id, tenant_id, user_id, traits }) {
  const row = { id: id ?? randomUUID(), tenantId: tenant_id ?? "default", userId: user_id, traits, createdAt: Date.now() };
  return db.insert(sessions).values(row).returning().get();
}

function getSession(id) {
  return db.query.sessions.findFirst({ where: eq(sessions.id, id), with: { messages: true } }).sync();
}

function appendMessage(sessionId, { id, role, content }) {
  const row = { id: id ?? randomUUID(), sessionId, role, content, createdAt: Date.now() };
  return db.insert(messages).values(row).returning().get();
}

const app = Fastify();
const session = { type: "object" };
const message = { type: "object", required: ["role"], properties: { role: { type: "string" } } };

app.post("/sessions", { schema: { body: session } }, async (request, reply) => {
  reply.code(201);
  return createSession(request.body);
});

app.get("/sessions/:id", async (request, reply) => {
  const found = getSession(request.params.id);
  if (!found) return reply.code(404).send({ error: "no such session" });
  return found;
});

app.post("/sessions/:id/messages", { schema: { body: message } }, async (request, reply) => {
  try {
    const made = appendMessage(request.params.id, request.body);
    reply.code(201);
    return made;
  } catch (error) {
    if (error.code === "SQLITE_CONSTRAINT_FOREIGNKEY") return reply.code(404).send({ error: "no such session" });
    throw error;
  }
});

console.log(await app.listen({ host: "127.0.0.1", port: 0 }));
