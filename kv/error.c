/*
 * kv/error.c: writing the words that go with a negative errno.
 *
 * Owns       nothing.
 * Invariant  the text always ends in a zero byte.
 */
#include "kv/error.h"

#include <stdarg.h>

bool kv_error_is_contradiction(int error)
{
    return error == -EBADMSG || error == -EUCLEAN;
}

void kv_error_set(struct kv_error *error, const char *format, ...)
{
    if (!error)
        return;

    const int saved_errno = errno;
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(error->text, sizeof error->text, format, arguments) < 0)
        error->text[0] = '\0';
    va_end(arguments);
    errno = saved_errno;
}
