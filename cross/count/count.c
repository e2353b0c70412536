/* A plugin of QEMU's user emulation that counts the instructions a program executes, in all and by block.
 *
 *   cc -shared -fPIC -O2 -o count.so count.c
 *   qemu-aarch64 -plugin ./count.so[,blocks=FILE] ... PROGRAM      (QEMU must be the dynamically linked build)
 *
 * Prints `instructions N` to standard error when the program ends. With `blocks=`, writes one line for each translated block:
 * its guest address, its instructions, how often it ran, its symbol. Counts are exact for one thread.
 * The declarations are those of QEMU's plugin interface, version 1 (docs/devel/tcg-plugins), which Debian ships no header for. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*udata_cb)(qemu_plugin_id_t, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, udata_cb, void *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);

int qemu_plugin_version = 1;

struct block {
    struct block *next;
    uint64_t address, instructions, runs;
    const char *symbol;
};
static struct block *blocks;
static const char *blocks_path;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    struct block *b = calloc(1, sizeof *b);
    if (!b) abort();
    const char *symbol = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0));
    *b = (struct block){blocks, qemu_plugin_tb_vaddr(tb), qemu_plugin_tb_n_insns(tb), 0, symbol ? strdup(symbol) : "?"};
    blocks = b;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &b->runs, 1);
}

static void ended(qemu_plugin_id_t id, void *data) {
    FILE *out = blocks_path ? fopen(blocks_path, "w") : NULL;
    uint64_t total = 0;
    for (struct block *b = blocks; b; b = b->next) {
        total += b->instructions * b->runs;
        if (out) fprintf(out, "%" PRIx64 " %" PRIu64 " %" PRIu64 " %s\n", b->address, b->instructions, b->runs, b->symbol);
    }
    if (out) fclose(out);
    fprintf(stderr, "instructions %" PRIu64 "\n", total);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "blocks=", 7)) blocks_path = strdup(argv[i] + 7);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
