/*
 * kv/error.h: what a negative errno says, and the words that go with it.
 *
 * Owns       nothing; struct kv_error is the caller's (kv/kv.h).
 */
#ifndef KV_ERROR_H
#define KV_ERROR_H

#include "kv/base.h"
#include "kv/kv.h"

/*
 * Set the text of an error, as printf does; what does not fit is cut off.
 *
 * error   NULL: nobody wants the words.
 * format  one line, no newline; names the thing and the remedy.
 *
 * Keeps errno as it is. Threads: any, each with its own error.
 */
void kv_error_set(struct kv_error *error, const char *format, ...) KV_PRINTF(2, 3);

/* Does this error say something of the image, and not of us? */
static inline bool kv_error_is_damage(int error)
{
    return kv_error_is_contradiction(error) || error == -EIO;
}

/*
 * What to do about an error, to end the words about it with: what the device does not give, or
 * there is no memory for, may be whole, and to mend it would lose it.
 */
static inline const char *kv_error_remedy(int error)
{
    if (error == -EIO)
        return "; check the device";
    return kv_error_is_contradiction(error) ? "; run fsck.kvfs -y" : "";
}

#endif
