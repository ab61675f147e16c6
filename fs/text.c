/* fs/text.c: see text.h. */
#include "fs/text.h"

#include <stdarg.h>
#include <stdio.h>

void fs_text_add(struct fs_text *text, const char *format, ...)
{
    const bool fits = text->length < text->cap;
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(fits ? text->out + text->length : NULL,
                                 fits ? text->cap - text->length : 0, format, args);
    va_end(args);
    if (length > 0)
        text->length += (size_t)length;
}
