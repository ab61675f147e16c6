/*
 * tools/flame_svg.c: a tree of samples as a picture.
 *
 * Owns       nothing.
 * Invariant  what is written is XML 1.0 whatever the names are.
 *
 * Method: flame graphs (Gregg 2016): width is time, height is who called whom; what is side by side
 * stands in order of names, so left and right mean nothing.
 */
#include "tools/flame.h"

#include <stdlib.h>
#include <string.h>

#define WIDTH       1200.0 /* of all samples */
#define MARGIN      10.0
#define ROW         17.0
#define HEAD        44.0
#define FOOT        14.0
#define FONT_SIZE   12.0
#define LETTER      (FONT_SIZE * 0.6) /* of a monospaced font */
#define LEAST_WIDTH 0.2               /* narrower ones are left out */

/* ---- text ------------------------------------------------------------------------------- */

/* Length of the UTF-8 sequence at `at`; 0: it is none, or not a character of XML. */
static size_t sequence_at(const unsigned char *at)
{
    if (at[0] < 0x80)
        return at[0] >= ' ' && at[0] != 0x7f;
    const size_t length = at[0] >= 0xf0 && at[0] < 0xf5   ? 4
                          : at[0] >= 0xe0 && at[0] < 0xf0 ? 3
                          : at[0] >= 0xc2 && at[0] < 0xe0 ? 2
                                                          : 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if (length == 3 && ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) ||
                        (at[0] == 0xef && at[1] == 0xbf && at[2] >= 0xbe)))
        return 0;
    if (length == 4 && ((at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90)))
        return 0;
    return length;
}

/* At most so many characters, escaped; what is no text becomes '?'. */
static void write_text(FILE *out, const char *text, size_t letters)
{
    const unsigned char *at = (const unsigned char *)text;
    for (size_t i = 0; *at && i < letters; i++) {
        const size_t length = sequence_at(at);
        switch (length ? *at : 0) {
        case 0:
            fputc('?', out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            (void)fwrite(at, 1, length, out); /* the stream remembers errors */
        }
        at += length ? length : 1;
    }
}

static size_t count_letters(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t count = 0;
    for (; *at; count++) {
        const size_t length = sequence_at(at);
        at += length ? length : 1;
    }
    return count;
}

/* ---- frames ----------------------------------------------------------------------------- */

/* Reds and yellows for programs, blues for the kernel; by name, so the same in each picture. */
static void write_colour(FILE *out, const struct flame_node *node)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *at = node->name; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 16777619u;
    const unsigned a = hash % 56, b = hash / 56 % 110, c = hash / 6160 % 56;
    if (node->is_kernel)
        fprintf(out, "rgb(%u,%u,%u)", 110 + c, 150 + b / 2, 200 + a);
    else
        fprintf(out, "rgb(%u,%u,%u)", 200 + a, 90 + b, c);
}

struct picture {
    FILE *out;
    double unit; /* width of a sample */
    uint64_t samples;
    double height;
};

static void write_frame(const struct picture *picture, const struct flame_node *node, size_t depth,
                        uint64_t before)
{
    FILE *const out = picture->out;
    const double x = MARGIN + (double)before * picture->unit;
    const double width = (double)node->count * picture->unit;
    const double y = picture->height - FOOT - (double)(depth + 1) * ROW;
    fputs("<g><title>", out);
    write_text(out, node->name, SIZE_MAX);
    fprintf(out, "%s: %llu samples, %.2f %%</title>", node->is_kernel ? " (kernel)" : "",
            (unsigned long long)node->count, 100 * (double)node->count / (double)picture->samples);
    fprintf(out, "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" rx=\"1\" fill=\"", x,
            y, width, ROW - 1);
    write_colour(out, node);
    fputs("\"/>", out);
    const size_t room = width > 2 * LETTER ? (size_t)((width - 4) / LETTER) : 0;
    const bool fits = count_letters(node->name) <= room;
    if (room >= 3) {
        fprintf(out, "<text x=\"%.2f\" y=\"%.1f\">", x + 2, y + ROW - 5);
        write_text(out, node->name, fits ? room : room - 2);
        fprintf(out, "%s</text>", fits ? "" : "..");
    }
    fputs("</g>\n", out);
}

/* ---- the picture ------------------------------------------------------------------------ */

/* Where a walk over the tree is: a node, and the samples to the left of it. */
struct place {
    const struct flame_node *node;
    uint64_t before;
};

/*
 * Visit what is wide enough to be seen, who calls before what is called. picture NULL: only look
 * how many rows there are.
 */
static size_t walk(const struct flame_node *root, double unit, const struct picture *picture)
{
    struct place path[FLAME_DEPTH_MAX + 2];
    size_t depth = 0, rows = 0;
    path[0] = (struct place){.node = root, .before = 0};
    for (bool down = true;;) {
        struct place *const at = &path[depth];
        const bool is_seen = (double)at->node->count * unit >= LEAST_WIDTH;
        if (down && is_seen) {
            rows = depth + 1 > rows ? depth + 1 : rows;
            if (picture)
                write_frame(picture, at->node, depth, at->before);
        }
        if (down && is_seen && at->node->first) {
            path[++depth] = (struct place){.node = at->node->first, .before = at->before};
        } else if (depth && at->node->next) {
            at->before += at->node->count;
            at->node = at->node->next;
            down = true;
        } else if (!depth--) {
            return rows;
        } else {
            down = false;
        }
    }
}

void flame_write_svg(const struct flame *flame, const char *title, FILE *out)
{
    const struct flame_node *root = flame_root(flame);
    const double unit = root->count ? WIDTH / (double)root->count : 0;
    const size_t rows = root->count ? walk(root, unit, NULL) : 0;
    const struct picture picture = {.out = out,
                                    .unit = unit,
                                    .samples = root->count,
                                    .height = HEAD + (double)rows * ROW + FOOT};
    fprintf(out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
            "<svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" width=\"%.0f\" "
            "height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\">\n"
            "<style>text{font-family:monospace;font-size:%.0fpx;fill:#000}"
            "rect{stroke:#fff;stroke-width:0.3}g:hover rect{stroke:#000;stroke-width:1}</style>\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#f8f8f4\"/>\n",
            WIDTH + 2 * MARGIN, picture.height, WIDTH + 2 * MARGIN, picture.height, FONT_SIZE);
    fprintf(out, "<text x=\"%.0f\" y=\"24\" style=\"font-size:15px\">", MARGIN);
    write_text(out, title, (size_t)(WIDTH / 9.2));
    fputs("</text>\n", out);
    if (root->count)
        (void)walk(root, unit, &picture);
    fputs("</svg>\n", out);
}
