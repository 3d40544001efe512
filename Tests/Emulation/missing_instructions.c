// {vex} vpdpbusd and vpdpwssd (AVX-VNNI), carried out in software when they trap on a CPU that lacks them. To be loaded before a test program with
// LD_PRELOAD; `run` beside this file builds and uses it. Encodings and meaning: Intel SDM, volume 2, chapter 2.3 (VEX) and the pages of the two
// instructions; register state as in an XSAVE area of the standard format, volume 1, chapter 13.4.
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

// Offsets and bits of the XSAVE area.
enum { XMM = 160, XSTATE_BV = 512, YMM_HIGH = 576, ZMM_HIGH = 1152, SSE = 1 << 1, AVX = 1 << 2, ZMM_HIGH256 = 1 << 6 };
enum { OP_DPBUSD = 0x50, OP_DPWSSD = 0x52, VEX3 = 0xC4 };

typedef struct instruction {
  uint8_t opcode;
  int bytes;               // of a vector: 16 or 32
  int destination, first;  // vector registers
  int second;              // vector register; -1: memory at `address`
  const uint8_t *address, *next;
} instruction;

typedef struct vector {
  uint8_t bytes[32];
} vector;

static const int GENERAL[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static uint64_t present_states(const uint8_t *area) {
  uint64_t present;
  memcpy(&present, area + XSTATE_BV, sizeof present);
  return present;
}

/// State that is not present is in its initial form: zero.
static vector read_register(const uint8_t *area, int n, int bytes) {
  const uint64_t present = present_states(area);
  vector v = {{0}};
  if (present & SSE) memcpy(v.bytes, area + XMM + 16 * n, 16);
  if (bytes == 32 && (present & AVX)) memcpy(v.bytes + 16, area + YMM_HIGH + 16 * n, 16);
  return v;
}

/// Bytes beyond the vector become zero, as with every VEX instruction. State that was in its initial form is written out first.
static void write_register(uint8_t *area, int n, const vector *v) {
  uint64_t present = present_states(area);
  if (!(present & SSE)) memset(area + XMM, 0, 256);
  if (!(present & AVX)) memset(area + YMM_HIGH, 0, 256);
  if (present & ZMM_HIGH256) memset(area + ZMM_HIGH + 32 * n, 0, 32);
  present |= SSE | AVX;
  memcpy(area + XSTATE_BV, &present, sizeof present);
  memcpy(area + XMM + 16 * n, v->bytes, 16);
  memcpy(area + YMM_HIGH + 16 * n, v->bytes + 16, 16);
}

static int32_t read32(const uint8_t *p) {
  int32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

/// The operand behind the opcode: ModRM, SIB and displacement. `x`, `b`: the prefix's bits, as 0 or 1.
static void read_operand(instruction *in, const uint8_t *p, const greg_t *registers, int x, int b) {
  const int mod = *p >> 6, rm = *p & 7;
  p++;
  in->address = NULL;
  if (mod == 3) {
    in->second = rm | b << 3;
    in->next = p;
    return;
  }
  in->second = -1;
  int64_t address = 0;
  bool relative = false, only_displacement = false;
  if (rm == 4) {
    const int scale = *p >> 6, index = (*p >> 3 & 7) | x << 3, base = *p & 7;
    p++;
    if (index != 4) address += registers[GENERAL[index]] << scale;
    only_displacement = mod == 0 && base == 5;
    if (!only_displacement) address += registers[GENERAL[base | b << 3]];
  } else if (mod == 0 && rm == 5) {
    relative = only_displacement = true;
  } else {
    address += registers[GENERAL[rm | b << 3]];
  }
  if (mod == 1) {
    address += (int8_t)*p++;
  } else if (mod == 2 || only_displacement) {
    address += read32(p);
    p += 4;
  }
  in->next = p;
  in->address = (const uint8_t *)(address + (relative ? (int64_t)p : 0));
}

/// False: not one of the two. Both are VEX.66.0F38.W0.
static bool decode(instruction *in, const uint8_t *p, const greg_t *registers) {
  if (p[0] != VEX3 || (p[1] & 31) != 2 || (p[2] & 0x83) != 1 || (p[3] != OP_DPBUSD && p[3] != OP_DPWSSD)) return false;
  const int r = !(p[1] & 0x80), x = !(p[1] & 0x40), b = !(p[1] & 0x20);
  in->opcode = p[3];
  in->bytes = p[2] & 4 ? 32 : 16;
  in->first = ~(p[2] >> 3) & 15;
  in->destination = (p[4] >> 3 & 7) | r << 3;
  read_operand(in, p + 4, registers, x, b);
  return true;
}

/// sum + the four products of bytes (unsigned by signed), or the two of signed 16-bit numbers, without saturation.
static int32_t multiply_add(int32_t sum, uint8_t opcode, const uint8_t *a, const uint8_t *b) {
  uint32_t s = (uint32_t)sum;
  int16_t p[2], q[2];
  memcpy(p, a, 4);
  memcpy(q, b, 4);
  if (opcode == OP_DPBUSD)
    for (int i = 0; i < 4; i++) s += (uint32_t)(a[i] * (int8_t)b[i]);
  else
    for (int i = 0; i < 2; i++) s += (uint32_t)(p[i] * q[i]);
  return (int32_t)s;
}

static void carry_out(const instruction *in, uint8_t *area) {
  vector sum = read_register(area, in->destination, in->bytes), second = {{0}};
  const vector first = read_register(area, in->first, in->bytes);
  if (in->second >= 0) second = read_register(area, in->second, in->bytes);
  else memcpy(second.bytes, in->address, (size_t)in->bytes);
  for (int at = 0; at < in->bytes; at += 4) {
    const int32_t s = multiply_add(read32(sum.bytes + at), in->opcode, first.bytes + at, second.bytes + at);
    memcpy(sum.bytes + at, &s, 4);
  }
  write_register(area, in->destination, &sum);
}

static void on_illegal_instruction(int number, siginfo_t *information, void *context) {
  (void)number, (void)information;
  ucontext_t *c = context;
  greg_t *registers = c->uc_mcontext.gregs;
  instruction in;
  if (!decode(&in, (const uint8_t *)registers[REG_RIP], registers)) {
    signal(SIGILL, SIG_DFL);  // the instruction runs again and ends the process
    return;
  }
  carry_out(&in, (uint8_t *)c->uc_mcontext.fpregs);
  registers[REG_RIP] = (greg_t)in.next;
}

__attribute__((constructor)) static void install(void) {
  struct sigaction action = {.sa_sigaction = on_illegal_instruction, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
  if (sigaction(SIGILL, &action, NULL)) {
    perror("missing_instructions: sigaction");
    exit(1);
  }
}
